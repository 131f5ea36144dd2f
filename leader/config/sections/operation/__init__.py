"""Sections about what surrounds the training: ports, certificates, limits and services."""
