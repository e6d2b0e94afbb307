package config

import (
	"fmt"
	"math"
	"strconv"
)

// Ratio is a share from 0 to 1, written as 0.01, in millionths.
type Ratio int64

const wholeRatio = 1_000_000

// UnmarshalText reads a share.
func (r *Ratio) UnmarshalText(text []byte) error {
	share, err := strconv.ParseFloat(string(text), 64)
	if err != nil || !(share >= 0 && share <= 1) {
		return fmt.Errorf("%.100q is not a share from 0 to 1 such as 0.01", text)
	}
	*r = Ratio(math.Round(share * wholeRatio))
	return nil
}

// Float is the share as a number.
func (r Ratio) Float() float64 { return float64(r) / wholeRatio }

// String writes the share as UnmarshalText reads it.
func (r Ratio) String() string { return strconv.FormatFloat(r.Float(), 'f', -1, 64) }

// MarshalText writes the share as String does.
func (r Ratio) MarshalText() ([]byte, error) { return []byte(r.String()), nil }
