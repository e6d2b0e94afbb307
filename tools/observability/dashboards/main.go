// Command dashboards writes the Grafana dashboards of Carillon, one file each, into a
// folder. With -check it writes nothing, and fails where a file is not what it would
// write.
//
//	go -C tools/observability run ./dashboards ../../deployments/observability/grafana/dashboards
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	check := flag.Bool("check", false, "compare instead of writing")
	flag.Parse()
	if err := run(flag.Arg(0), *check); err != nil {
		fmt.Fprintln(os.Stderr, "dashboards:", err)
		os.Exit(1)
	}
}

func run(dir string, check bool) error {
	if dir == "" {
		return errors.New("say where they go")
	}
	for _, d := range []dashboard{overview(), edge(), publishing(), presence(), nats()} {
		made, err := d.encode()
		if err != nil {
			return err
		}
		name := filepath.Join(dir, d.uid+".json")
		if !check {
			if err := os.WriteFile(name, made, 0o644); err != nil {
				return err
			}
			continue
		}
		is, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if !bytes.Equal(is, made) {
			return fmt.Errorf("%s is not as it is made: make dashboards", name)
		}
	}
	return nil
}
