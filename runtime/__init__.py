"""What knows nothing of Hortus's subject: errors, documents, files, databases, processes and logs."""
