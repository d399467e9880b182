"""Networks, what they see (layouts), and how they are stored (bundles)."""
