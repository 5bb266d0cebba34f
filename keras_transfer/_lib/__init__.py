"""What knows no model: checks, files, the network, tables, Keras' private names."""
