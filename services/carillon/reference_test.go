package main

import (
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/carillon-rt/carillon/services/bench/report"
	"github.com/carillon-rt/carillon/services/internal/config"
)

var update = flag.Bool("update", false, "writes the tables of docs/configuration.md anew")

const referencePage = "../../docs/configuration.md"

// The page says of every option what the command does.
func TestThePageHasEveryOption(t *testing.T) {
	t.Parallel()
	want, err := runCommand(t, nil, "config", "reference")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := report.Insert(referencePage, "options", want); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "<!-- begin options -->\n\n"+want+"\n<!-- end options -->\n") {
		t.Errorf("%s has other tables (go test -update writes it anew) than\n%s", referencePage, want)
	}
	for _, o := range config.Options() {
		if o.Flag == "" && !strings.Contains(want, "# "+o.Path+"\n") || o.Flag != "" && !strings.Contains(want, "| `"+o.Path+"`<br>`"+o.Env+"`<br>`--"+o.Flag+"` |") {
			t.Errorf("%s is not in the reference", o.Path)
		}
	}
	for row, columns := range map[string][]string{
		"`edge.max_frame_bytes`": {"size, 1KiB to 16MiB", "`64KiB`", "edge", "at start"},
		"`log.level`":            {"`debug`, `info`, `warn`, `error`", "`info`", "all", "at once"},
		"`nats.sync_interval`":   {"duration, 1ms to 10m", "`1s`", "serve, dev", "at start"},
		"`rules[].subscribe`":    {"text", "", "at once", "CEL: may the user receive messages? Empty: no."},
		"`edge.listen`":          {"`host:port`, `:port`", "`:8080`", "edge", "at start"},
		"`partitions`":           {"integer", "`1`", "at start"},
	} {
		_, rest, _ := strings.Cut(want, "| "+row)
		line, _, _ := strings.Cut(rest, "\n")
		if !strings.Contains(line, " | "+strings.Join(columns, " | ")+" |") {
			t.Errorf("%s: %s, want %q", row, line, columns)
		}
	}
}
