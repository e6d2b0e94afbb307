//go:build !linux

package main

import "errors"

var errBenchElsewhere = errors.New("bench runs on Linux only: it asks the kernel what processes use")

type benchMeasureCommand struct{}

// Run says where it runs.
func (benchMeasureCommand) Run(environment) error {
	return errBenchElsewhere
}

type benchServeCommand struct{}

// Run says where it runs.
func (benchServeCommand) Run(environment) error { return errBenchElsewhere }
