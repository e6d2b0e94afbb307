package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/carillon-rt/carillon/services/internal/namespace"
)

// Differences lists the paths of the options in which two configurations differ, in
// their order: "edge.listen", "callers", and of namespaces "namespaces[chat].rules", or
// "namespaces[chat]" if only one has it.
func Differences(a, b *Config) []string {
	var paths []string
	for _, o := range Options() {
		switch {
		case reflect.DeepEqual(o.value(a).Interface(), o.value(b).Interface()):
		case o.Path == "namespaces":
			paths = append(paths, namespaceDifferences(a.Namespaces, b.Namespaces)...)
		default:
			paths = append(paths, o.Path)
		}
	}
	return paths
}

// namespaceDifferences compares by name; the order makes no difference.
func namespaceDifferences(a, b []namespace.Namespace) []string {
	before, now := namespace.NewSet(a), namespace.NewSet(b)
	var paths []string
	for _, n := range a {
		if now[n.Name] == nil {
			paths = append(paths, fmt.Sprintf("namespaces[%s]", n.Name))
		}
	}
	for _, n := range b {
		if before[n.Name] == nil {
			paths = append(paths, fmt.Sprintf("namespaces[%s]", n.Name))
			continue
		}
		old, value := reflect.ValueOf(*before[n.Name]), reflect.ValueOf(n)
		for i := range value.NumField() {
			if !reflect.DeepEqual(old.Field(i).Interface(), value.Field(i).Interface()) {
				paths = append(paths, fmt.Sprintf("namespaces[%s].%s", n.Name, keyOf(value.Type().Field(i))))
			}
		}
	}
	return paths
}

// NeedRestart returns those of the paths of Differences that a process of the command
// only takes when it starts; others it does not look at, or takes while it runs.
func NeedRestart(command Command, paths []string) []string {
	return slices.DeleteFunc(slices.Clone(paths), func(path string) bool {
		switch {
		case path == "auth.issuers" || path == "callers" || path == "log.level":
			return true
		case strings.HasPrefix(path, "auth.roles_secret.") || strings.HasPrefix(path, "auth.previous_roles_secret."):
			return true
		case strings.HasPrefix(path, "namespaces["):
			return strings.HasSuffix(path, "].rules")
		default:
			return !command.uses(path)
		}
	})
}
