"""Explorers of the Gaussian models; none needs torch."""
