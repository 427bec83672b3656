"""Secure aggregation: the server learns the sum of many clients' updates, and no single one.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017
(doi 10.1145/3133956.3133982), the variant against an active server. Here are the arithmetic and both sides as state
machines over plain bytes; who carries the bytes is another room's business.
"""
