package main

import (
	"github.com/carillon-rt/carillon/services/edge"
	"github.com/carillon-rt/carillon/services/internal/config"
)

// credentialsOf says how an edge lets clients show who they are.
func credentialsOf(c *config.Config) edge.Credentials {
	credentials := edge.Credentials{
		InQuery: c.Edge.TokenInQuery, Cookie: c.Edge.TokenCookie, AllowedOrigins: c.Edge.AllowedOrigins, Notice: c.Edge.TokenNotice,
	}
	if c.Auth.Anonymous.Enabled {
		credentials.AnonymousPrefix = c.Auth.Anonymous.UserPrefix
	}
	return credentials
}
