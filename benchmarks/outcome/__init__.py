"""What is learned: `codecs`, `masked_accuracy`, `private_accuracy`; parts of published, federated and attacked runs."""
