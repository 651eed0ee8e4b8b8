"""HTTP in, HTTP out: routes, bodies, schemas, errors, middleware. No arithmetic, no models."""
