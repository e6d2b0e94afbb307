// Command release makes the files of a release in a directory: the binaries in archives,
// the image as an OCI archive, what they are made of (CycloneDX), and the checksums of all
// that. It needs no network but for modules that are not in the cache, and no Docker
// engine; the same commit and version make the same bytes, wherever they are made.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1) //nolint:gocritic // nothing is left to be undone
	}
}

func run(ctx context.Context, arguments []string) error {
	flags := flag.NewFlagSet("release", flag.ContinueOnError)
	o := Options{Platforms: everyPlatform}
	var dry bool
	flags.StringVar(&o.Root, "root", ".", "root of the repository")
	flags.StringVar(&o.Out, "out", "dist", "directory to make")
	flags.StringVar(&o.Version, "version", "", "version, as v1.2.3")
	flags.BoolVar(&dry, "dry", false, "do without the tag, and with changes that are not committed")
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	o.Extra = flags.Args()
	if err := o.describe(ctx, dry); err != nil {
		return err
	}
	return Make(ctx, o)
}

// describe asks git which revision this is, and whether it is the one of the tag.
func (o *Options) describe(ctx context.Context, dry bool) error {
	git := func(arguments ...string) (string, error) {
		var stderr bytes.Buffer
		command := exec.CommandContext(ctx, "git", append([]string{"-C", o.Root}, arguments...)...) //nolint:gosec // our own
		command.Stderr = &stderr
		text, err := command.Output()
		if err != nil {
			return "", fmt.Errorf("git %q: %w: %s", arguments, err, stderr.String())
		}
		return strings.TrimSpace(string(text)), nil
	}
	revision, err := git("rev-parse", "HEAD")
	if err != nil {
		return err
	}
	committed, err := git("show", "--no-patch", "--format=%ct", "HEAD")
	if err != nil {
		return err
	}
	seconds, err := strconv.ParseInt(committed, 10, 64)
	if err != nil {
		return err
	}
	o.Revision, o.Time = revision, time.Unix(seconds, 0).UTC()
	changes, err := git("status", "--porcelain")
	if err != nil {
		return err
	}
	if changes != "" {
		o.Revision += "-modified"
	}
	tags, err := git("tag", "--points-at", "HEAD")
	switch {
	case err != nil || dry:
		return err
	case changes != "":
		return errors.New("there are changes that are not committed; DRY=yes makes the files all the same")
	case !slices.Contains(strings.Fields(tags), o.Version):
		return fmt.Errorf("the commit does not have the tag %s; git tag -a %s, or DRY=yes", o.Version, o.Version)
	}
	return nil
}
