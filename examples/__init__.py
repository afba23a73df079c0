"""Model specs with the data they ship: nothing under `tasks` or `infra` imports this package."""
