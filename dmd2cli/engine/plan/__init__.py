"""What a recipe takes and costs, from networks without weights."""
