"""Operating zlay: settings, refusals, outages, stops. Real processes, each asked many things."""
