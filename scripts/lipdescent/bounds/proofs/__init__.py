"""What points prove, rounding included: ``prover.Prover``, which every lower bound asks."""
