"""Every bound that fits one network, in one table: ``bracket.bracket``, which users call.

``readable`` reads their network, ``affordable`` says what fits the budget, ``rows`` takes a method.
"""
