"""The spec's tiers, limits and deliveries, brought to the gateway."""
