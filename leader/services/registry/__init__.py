"""Registries of models, in a folder or at an MLflow server, and the lineage that is registered with each."""
