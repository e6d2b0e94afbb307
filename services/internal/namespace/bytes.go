package namespace

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Bytes is a size, written as "1GiB", "64KiB" or a plain number of bytes.
type Bytes int64

var units = []struct {
	suffix string
	factor int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalText reads a size.
func (b *Bytes) UnmarshalText(text []byte) error {
	s, factor := string(text), int64(1)
	for _, unit := range units {
		if number, ok := strings.CutSuffix(s, unit.suffix); ok {
			s, factor = number, unit.factor
			break
		}
	}
	n, err := strconv.ParseInt(strings.TrimSpace(s), 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64/factor {
		return fmt.Errorf("%q is not a size such as 64KiB, 1GiB or 1048576", text)
	}
	*b = Bytes(n * factor)
	return nil
}

// String writes the size with the largest unit that divides it.
func (b Bytes) String() string {
	for _, unit := range units[:3] {
		if b != 0 && int64(b)%unit.factor == 0 {
			return strconv.FormatInt(int64(b)/unit.factor, 10) + unit.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText writes the size as String does.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }
