"""What every stage and command shares: errors, outputs that are whole or absent, model folders, settings."""
