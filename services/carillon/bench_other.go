//go:build !linux

package main

import "errors"

type benchCommand struct{}

// Run says where it runs.
func (benchCommand) Run(environment) error {
	return errors.New("bench runs on Linux only: it asks /proc what processes use")
}
