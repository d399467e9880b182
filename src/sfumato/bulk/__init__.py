"""Large inputs in shards: written by one process or by many, on one machine or a cluster, and gone on with."""
