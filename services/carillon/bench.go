package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/carillon-rt/carillon/services/bench/report"
)

type benchCommand struct {
	Measure benchMeasureCommand `cmd:"" default:"withargs" help:"Measure: what bench does by itself. Its --help has the flags."`
	Report  benchReportCommand  `cmd:"" help:"Print, draw and compare again what a run wrote with --json."`
	Serve   benchServeCommand   `cmd:"" hidden:"" help:"Run a server that Carillon is measured against."`
}

// benchOutput is where what was found goes, beside the standard output.
type benchOutput struct {
	Plots   string `placeholder:"DIR" help:"Also draw plots into a directory, as SVG."`
	Docs    string `placeholder:"FILE" help:"Also put the tables, and the plots of --plots, between the markers of a Markdown file."`
	Compare string `placeholder:"FILE" help:"Also compare with what an older run wrote, and fail if CPU or memory of Carillon is worse by more than 15 %."`
}

// errWorse is the end of a comparison that found something.
var errWorse = errors.New("worse than the older run")

// check finds out before a long run what would keep it from being written.
func (o *benchOutput) check() error {
	if o.Docs != "" {
		if _, err := os.Stat(o.Docs); err != nil {
			return fmt.Errorf("--docs: %w", err)
		}
	}
	if o.Compare != "" {
		if _, err := report.Load(o.Compare); err != nil {
			return fmt.Errorf("--compare: %w", err)
		}
	}
	return nil
}

// write prints a report, and does what else is asked for.
func (o *benchOutput) write(out io.Writer, found report.Report) error {
	fmt.Fprintf(out, "\n%s", found.Markdown())
	if o.Plots != "" {
		if err := found.Draw(o.Plots); err != nil {
			return err
		}
	}
	if o.Docs != "" {
		if err := o.writeDocs(found); err != nil {
			return err
		}
	}
	if o.Compare == "" {
		return nil
	}
	old, err := report.Load(o.Compare)
	if err != nil {
		return err
	}
	table, worse, err := found.Compare(old)
	if err != nil {
		return fmt.Errorf("--compare %s: %w", o.Compare, err)
	}
	fmt.Fprintf(out, "\n%s", table)
	if worse > 0 {
		return fmt.Errorf("%d costs: %w", worse, errWorse)
	}
	return nil
}

func (o *benchOutput) writeDocs(found report.Report) error {
	if err := report.Insert(o.Docs, "tables", found.Markdown()); err != nil {
		return err
	}
	if o.Plots == "" {
		return nil
	}
	dir, err := filepath.Rel(filepath.Dir(o.Docs), o.Plots)
	if err != nil {
		return err
	}
	return report.Insert(o.Docs, "plots", found.Pictures(dir))
}

type benchReportCommand struct {
	Files []string `arg:"" name:"file" help:"What --json wrote; several, of different phases, make one report."`
	benchOutput
}

// Run does with files what a run does with what it finds.
func (c *benchReportCommand) Run(env environment) error {
	reports := make([]report.Report, len(c.Files))
	for i, file := range c.Files {
		var err error
		if reports[i], err = report.Load(file); err != nil {
			return err
		}
	}
	found, err := report.Join(reports...)
	if err != nil {
		return err
	}
	return c.write(env.stdout, found)
}
