"""Differential privacy: what each part has spent, the noise that hides it, and the ledger of both."""
