package config

import (
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/carillon-rt/carillon/services/internal/auth"
)

// envPrefix is what the variables of options begin with.
const envPrefix = "CARILLON_"

// serviceLink is the end of what Kubernetes tells a pod of the Services beside it, unless
// enableServiceLinks is false: for one named carillon-edge, CARILLON_EDGE_SERVICE_HOST,
// CARILLON_EDGE_PORT, CARILLON_EDGE_PORT_8080_TCP_ADDR and others.
var serviceLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// Variables are those of the environment of a process.
type Variables struct {
	// All has name=value of each, as os.Environ has it.
	All []string
	// Known are names that begin as those of options do, and are none.
	Known []string
}

// Misspelt is a check for Load of variables that are nearly those of options. It does not
// see those that are further off: they may be somebody else's, as the files for NATS in
// deployments/ have some, and a Carillon of an older version does not know all options.
func (v Variables) Misspelt(c *Config) []string {
	var lines []string
	for _, name := range v.unknown(c) {
		if meant := v.nearest(name); meant != "" {
			lines = append(lines, "the environment variable "+name+" is no option; did you mean "+meant+"?")
		}
	}
	return lines
}

// Strange are the names of the rest that are no options, and that c has no use for.
func (v Variables) Strange(c *Config) []string {
	return slices.DeleteFunc(v.unknown(c), func(name string) bool { return v.nearest(name) != "" })
}

// unknown are the names of variables that are set and begin as those of options do, but
// are none, nor secrets that c names.
func (v Variables) unknown(c *Config) []string {
	known := append(secretsNamed(reflect.ValueOf(c).Elem()), v.names()...)
	var unknown []string
	for _, variable := range v.All {
		name, value, _ := strings.Cut(variable, "=")
		if strings.HasPrefix(name, envPrefix) && value != "" && !slices.Contains(known, name) && !serviceLink.MatchString(name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	return slices.Compact(unknown)
}

// names are those of options, and what else is known.
func (v Variables) names() []string {
	names := append(slices.Clone(v.Known), fileEnv)
	for _, o := range Options() {
		if o.Env != "" {
			names = append(names, o.Env)
		}
	}
	return names
}

// nearest is the known name that another was most likely to be: two letters apart at most,
// underscores aside; empty if there is none.
func (v Variables) nearest(name string) string {
	bare := func(text string) string { return strings.ReplaceAll(text, "_", "") }
	meant, least := "", 3
	for _, known := range v.names() {
		if apart := distance(bare(name), bare(known)); apart < least {
			meant, least = known, apart
		}
	}
	return meant
}

// secretsNamed are the variables that the secrets within a value are in.
func secretsNamed(value reflect.Value) []string {
	if secret, ok := reflect.TypeAssert[auth.Secret](value); ok {
		return []string{secret.Env}
	}
	var names []string
	switch value.Kind() {
	case reflect.Struct:
		for _, inner := range value.Fields() {
			names = append(names, secretsNamed(inner)...)
		}
	case reflect.Slice:
		for i := range value.Len() {
			names = append(names, secretsNamed(value.Index(i))...)
		}
	case reflect.Pointer:
		if !value.IsNil() {
			names = secretsNamed(value.Elem())
		}
	}
	return names
}
