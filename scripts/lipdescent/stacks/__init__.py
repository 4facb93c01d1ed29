"""Many models at once: ``model_stack.ModelStack``, its passes (``forward``) and their parts.

No model's numbers depend on the models beside it.
"""
