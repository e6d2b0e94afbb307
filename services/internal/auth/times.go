package auth

import (
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/carillon-rt/carillon/services/internal/fault"
)

// maxNumericDate is the last second of the year 9999, in Unix seconds.
const maxNumericDate = 253402300799

// checkTimes checks exp, nbf and iat and returns exp, and iat or zero. A token is good
// until just before its exp (RFC 7519 section 4.1.4); skew is by how much the issuer's
// clock may be ahead.
func checkTimes(claims jwt.MapClaims, now time.Time, skew time.Duration) (expires, issued time.Time, err error) {
	refuse := func(err error) (_, _ time.Time, _ error) { return time.Time{}, time.Time{}, err }
	expires, ok, err := dateOf(claims, "exp")
	if err != nil {
		return refuse(err)
	}
	if !ok {
		return refuse(fault.New(fault.TokenClaimInvalid, "", "the token's exp is required"))
	}
	for _, name := range []string{"nbf", "iat"} {
		from, ok, err := dateOf(claims, name)
		if err != nil {
			return refuse(err)
		}
		if ok && from.After(now.Add(skew)) {
			return refuse(fault.New(fault.TokenNotYetValid, "", "the token is valid only from %s on (%s)", from.UTC().Format(time.RFC3339), name))
		}
		issued = from // the last is iat
	}
	if !now.Before(expires) {
		return refuse(fault.New(fault.TokenExpired, "", "the token expired at %s", expires.UTC().Format(time.RFC3339)))
	}
	return expires, issued, nil
}

// dateOf reads a NumericDate (RFC 7519 section 2), cut to the second.
func dateOf(claims jwt.MapClaims, name string) (date time.Time, ok bool, err error) {
	value, ok := claims[name]
	if !ok {
		return time.Time{}, false, nil
	}
	seconds, number := value.(float64)
	if !number || seconds < 0 || seconds > maxNumericDate {
		return time.Time{}, false, fault.New(fault.TokenClaimInvalid, "", "the token's %s is not a time in Unix seconds", name)
	}
	return time.Unix(int64(seconds), 0), true, nil
}
