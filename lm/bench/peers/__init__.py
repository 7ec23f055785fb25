"""What runs in the processes of torch's contestants; only they import torch and transformers."""
