"""`sluice verify`: whether what was counted is what the log holds."""
