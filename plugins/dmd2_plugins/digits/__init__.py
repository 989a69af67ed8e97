"""8 x 8 handwritten digits from scikit-learn: real data, a small teacher and a metric that fit in a wheel."""
