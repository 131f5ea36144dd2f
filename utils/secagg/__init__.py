"""Secure aggregation: keys, masks, shares and rings that both ends agree on; no torch, no gRPC.

Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine Learning",
https://eprint.iacr.org/2017/281, with the sparse graph of Bell et al. 2020, https://eprint.iacr.org/2020/704.
"""
