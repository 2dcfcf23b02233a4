package keeper

import (
	"crypto/sha256"
	"encoding/binary"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/regkeeper/regkeeper/credential"
)

// Schedule says when a login is replaced, and how long the one before it stays.
type Schedule struct {
	// Every is the age at which a login is replaced; zero for no such limit.
	Every time.Duration
	// Cron has the times at which a login is replaced, in the time zone of this
	// machine unless it names one; nil for none.
	Cron cron.Schedule
	// Jitter is the most by which the time is moved, so that many registries
	// do not rotate at once: earlier for Every, later for Cron.
	Jitter time.Duration
	// Overlap is how long a login stays accepted after the last place has left
	// it, for builds under way and clients that remember logins.
	Overlap time.Duration
	// Limit is how long a replaced login stays accepted while a place may
	// hold it still. Zero: for as long as one may.
	Limit time.Duration
	// Lifetime is the expiry asked for; zero asks for none.
	Lifetime time.Duration
}

// renewShare is the part of its life after which a login that expires is
// replaced, as cert-manager does.
const renewShare = 2.0 / 3

// Next is when the login is due to be replaced; zero for never. It is the same
// at every call for one login, jitter included, and follows a changed schedule.
func (s Schedule) Next(c credential.Credential) time.Time {
	var next time.Time
	earliest := func(t time.Time) {
		if next.IsZero() || t.Before(next) {
			next = t
		}
	}
	spread := time.Duration(float64(s.Jitter) * fraction(c.ID))
	if s.Every > 0 {
		earliest(c.Issued.Add(s.Every - min(spread, s.Every/2)))
	}
	if s.Cron != nil {
		// Zero: there is no such time, for example February 30.
		if at := s.Cron.Next(c.Issued.Local()); !at.IsZero() {
			earliest(at.Add(spread))
		}
	}
	if !c.Expires.IsZero() {
		life := c.Expires.Sub(c.Issued)
		earliest(c.Issued.Add(time.Duration(float64(life) * renewShare * (1 - fraction(c.ID)/10))))
	}
	return next
}

// fraction spreads ids evenly over [0,1).
func fraction(id string) float64 {
	sum := sha256.Sum256([]byte(id))
	return float64(binary.BigEndian.Uint32(sum[:])) / (1 << 32)
}
