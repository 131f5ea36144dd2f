"""The record of a run on disk, and those who follow it."""
