"""What is learned: `codecs`, `private_accuracy`; parts of the published, federated and attacked runs."""
