"""Secure aggregation: the server learns the sum of many clients' updates, but no single update.

Bonawitz et al., "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017
(doi 10.1145/3133956.3133982), the variant against an active server. This package has the arithmetic, and both sides as
state machines over plain bytes. It does not send messages.
"""
