"""FedDAT: federated fine-tuning of vision-language models with the Dual-Adapter Teacher (arXiv 2308.12305)."""
