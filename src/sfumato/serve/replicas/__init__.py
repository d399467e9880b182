"""Several servers behind one address, on Ray Serve. Importing this package loads no Ray; its modules do."""
