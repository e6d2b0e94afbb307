package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
)

// maxFileBytes bounds the file, whose aliases may multiply it.
const maxFileBytes = 1 << 20

// Load loads the configuration of a command: defaults, then the file, the environment
// and the flags, each over what came before. An environment variable that is empty is
// one that is not set. The checks see the result and return lines "path: message". The
// error is Problems: everything that is wrong, at once.
//
// For dev the result has its defaults too: see DevIssuers, and GenerateKeys, which the
// caller must call before it loads their keys.
func Load(flags *Flags, command Command, getenv func(string) string, checks ...func(*Config) []string) (*Config, error) {
	c, _, err := LoadWithPlaces(flags, command, getenv, checks...)
	return c, err
}

// LoadWithPlaces is Load, and tells where options were set.
func LoadWithPlaces(flags *Flags, command Command, getenv func(string) string, checks ...func(*Config) []string) (*Config, Places, error) {
	r := newReport()
	name := flags.file(getenv)
	var text []byte
	if name != "" {
		var problem string
		if text, problem = readFile(name); problem != "" {
			r.refuse("", name, "%s", problem)
		}
	}
	c, err := load(r, filepath.Base(name), text, flags.set(), command, getenv, checks)
	return c, r.places, err
}

// file is the name of the configuration file; empty if there is none.
func (f *Flags) file(getenv func(string) string) string {
	if f.File != "" {
		return f.File
	}
	return getenv(fileEnv)
}

// readFile reads the configuration file, or says why not.
func readFile(name string) (text []byte, problem string) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "the configuration file does not exist"
	}
	if err == nil {
		defer file.Close()
		text, err = io.ReadAll(io.LimitReader(file, maxFileBytes+1))
	}
	switch {
	case err != nil:
		return nil, fmt.Sprintf("the configuration file cannot be read: %v", err)
	case len(text) > maxFileBytes:
		return nil, fmt.Sprintf("the configuration file has more than %d bytes", maxFileBytes)
	}
	return text, ""
}

// load is Load with the file's text and the texts of the flags by path.
func load(r *report, name string, text []byte, flags map[string]string, command Command, getenv func(string) string, checks []func(*Config) []string) (*Config, error) {
	c := &Config{}
	applyDefaults(reflect.ValueOf(c).Elem())
	if command == Dev {
		c.applyDevDefaults()
	}
	(&decoder{report: r, file: name}).decode(text, c)
	for _, o := range Options() {
		if o.Flag == "" {
			continue
		}
		if value := getenv(o.Env); value != "" {
			r.assign(c, o, o.Env, value)
		}
		if value, ok := flags[o.Path]; ok {
			r.assign(c, o, "--"+o.Flag, value)
		}
	}
	if r.faulty[""] { // no file: what it lacks is no problem of its own
		return nil, r.err()
	}
	if command == Dev {
		c.applyDev(r)
	}
	c.check(r, command, Secrets(getenv))
	for _, check := range checks {
		r.addAll("", check(c))
	}
	if err := r.err(); err != nil {
		return nil, err
	}
	if command == Dev {
		c.useDevKeys()
	}
	return c, nil
}

// assign sets an option from the environment or a flag.
func (r *report) assign(c *Config, o Option, place, text string) {
	r.places[o.Path] = place
	if err := set(o.value(c), o.field, text); err != nil {
		r.refuse(o.Path, place, "%v", err)
	}
}
