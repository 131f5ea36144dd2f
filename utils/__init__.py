"""What leader and learner share: errors, seeds, payloads, framing, datasets."""
