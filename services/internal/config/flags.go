package config

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"
)

// fileEnv names the file where no flag does.
const fileEnv = "CARILLON_CONFIG"

// Flags are the flags of a command that takes a configuration, for embedding in its
// kong struct; made by NewFlags before kong builds its model.
type Flags struct {
	File string `name:"config" placeholder:"FILE" help:"YAML file with the configuration ($CARILLON_CONFIG); carillon config print shows one."`

	// Tree is a struct made from the options, a field each. kong only looks at it:
	// environment and defaults are applied by Load, so that all problems are found
	// together and the file stands between them.
	Tree kong.Plugins `embed:""`

	options []Option // of the tree's fields
}

// NewFlags makes the flags of the options that a command uses. A file may set the
// others too, so that all roles can share one.
func NewFlags(command Command) Flags {
	var f Flags
	var members []reflect.StructField
	for _, o := range Options() {
		if o.Flag != "" && command.uses(o.Path) {
			f.options = append(f.options, o)
			members = append(members, o.flagField(len(members)))
		}
	}
	f.Tree = kong.Plugins{reflect.New(reflect.StructOf(members)).Interface()}
	return f
}

// uses tells whether an option makes a difference to a command.
func (command Command) uses(path string) bool {
	prefixes := []string{"shutdown_timeout", "log.", "ops.", "telemetry."} // of every role
	externalNATS := []string{"nats.url", "nats.credentials", "nats.user", "nats.password.", "nats.tls."}
	switch command {
	case EdgeRole:
		prefixes = append(slices.Concat(prefixes, externalNATS), "edge.", "console.", "presence.addresses", "presence.dial_tls.", "presence.grace", "authorization.", "auth.")
	case PresenceRole:
		prefixes = append(prefixes, "presence.listen", "presence.tls.", "presence.max_connections", "auth.")
	case PublishRole:
		prefixes = append(slices.Concat(prefixes, externalNATS), "publish.", "presence.addresses", "presence.dial_tls.")
	case NoRole:
		prefixes = []string{"data_dir"}
	case Epoch:
		prefixes = externalNATS
	case Health:
		prefixes = []string{"ops.listen"}
	default: // dev and serve
		return true
	}
	for _, prefix := range prefixes {
		if strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

// flagField is a field that kong makes a flag of: nil unless the flag is given.
func (o Option) flagField(i int) reflect.StructField {
	t := reflect.TypeFor[*string]()
	if o.field.Type.Kind() == reflect.Bool {
		t = reflect.TypeFor[*bool]() // so that the flag needs no value
	}
	help := strings.TrimSuffix(o.Help+o.bounds(), ".") + " ($" + o.Env + ")."
	placeholder := o.Default
	if placeholder == "" {
		placeholder = strings.ToUpper(keyOf(o.field))
	}
	tag := fmt.Sprintf("name:%s help:%s placeholder:%s", strconv.Quote(o.Flag), strconv.Quote(help), strconv.Quote(placeholder))
	if section, _, inside := strings.Cut(o.Path, "."); inside {
		tag += " group:" + strconv.Quote(section)
	}
	return reflect.StructField{Name: "Option" + strconv.Itoa(i), Type: t, Tag: reflect.StructTag(tag)}
}

// set returns the texts of the flags that were given, by path.
func (f *Flags) set() map[string]string {
	texts := map[string]string{}
	for _, tree := range f.Tree {
		v := reflect.ValueOf(tree).Elem()
		for i, o := range f.options {
			if given := v.Field(i); !given.IsNil() {
				texts[o.Path] = fmt.Sprint(given.Elem())
			}
		}
	}
	return texts
}
