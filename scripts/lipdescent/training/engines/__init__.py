"""Forward and backward passes of a stack: ``engine`` says what each offers, ``choice`` chooses."""
