"""Before a training: a teacher is measured, instead of trusting what its configuration says of it."""
