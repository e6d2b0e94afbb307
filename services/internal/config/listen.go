package config

import (
	"path/filepath"
	"reflect"
)

// OpsListen is where the process that has these flags serves /readyz. Nothing else of
// the file is looked at, and a file that cannot be read says nothing: a process goes on
// with the configuration that it has while its file is wrong, and is well.
func OpsListen(flags *Flags, getenv func(string) string) (string, error) {
	r := newReport()
	c := &Config{}
	applyDefaults(reflect.ValueOf(c).Elem())
	if name := flags.file(getenv); name != "" {
		text, _ := readFile(name)
		(&decoder{report: r, file: filepath.Base(name)}).decode(text, c)
	}
	r = newReport()
	for _, o := range Options() {
		if o.Path != "ops.listen" {
			continue
		}
		if value := getenv(o.Env); value != "" {
			r.assign(c, o, o.Env, value)
		}
		if value, ok := flags.set()[o.Path]; ok {
			r.assign(c, o, "--"+o.Flag, value)
		}
	}
	return c.Ops.Listen, r.err()
}
