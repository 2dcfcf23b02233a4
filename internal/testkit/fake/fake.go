// Package fake has small real implementations of the ports, in memory, for
// tests: a clock that is set by hand, a source that makes tokens, a registry
// that accepts exactly those, targets with places, a store, and a process that
// can be killed at any call.
//
// Each can be made to fail, before a call has had its effect or after it: then
// the effect is there and the answer was lost. It refuses to decide what a
// test expects.
package fake

import (
	"errors"
	"sync"
	"time"
)

// ErrFake is in the chain of every failure that a test asked for.
var ErrFake = errors.New("fake failure")

// Clock is a time that tests set.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock starts a clock at a time that no machine's clock shows.
func NewClock() *Clock { return &Clock{now: time.Date(2031, 3, 1, 12, 0, 0, 0, time.UTC)} }

// Now is the time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Advance moves the clock, backward if d is negative.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Calls counts calls by name, and makes them fail.
type Calls struct {
	mu     sync.Mutex
	counts map[string]int
	before map[string]int
	after  map[string]int
	err    error
}

// FailBefore makes the next n calls of that name fail without effect; n < 0
// means all from now on, 0 none.
func (c *Calls) FailBefore(name string, n int) { c.set(&c.before, name, n) }

// FailAfter makes the next n calls of that name fail after their effect.
func (c *Calls) FailAfter(name string, n int) { c.set(&c.after, name, n) }

// FailWith is what failing calls return besides [ErrFake].
func (c *Calls) FailWith(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

// Heal ends all failures.
func (c *Calls) Heal() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.before, c.after, c.err = nil, nil, nil
}

// Failing says whether the next call of that name will fail.
func (c *Calls) Failing(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.before[name] != 0 || c.after[name] != 0
}

// Count is how often a call was made since the last Reset.
func (c *Calls) Count(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.counts[name]
}

// Counts are all counts since the last Reset.
func (c *Calls) Counts() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	counts := map[string]int{}
	for name, n := range c.counts {
		counts[name] = n
	}
	return counts
}

// Reset sets the counts to nothing.
func (c *Calls) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts = nil
}

func (c *Calls) set(where *map[string]int, name string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if *where == nil {
		*where = map[string]int{}
	}
	(*where)[name] = n
}

func (c *Calls) do(name string, effect func() error) error {
	if err := c.begin(name); err != nil {
		return err
	}
	if err := effect(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failure(c.after, name)
}

func (c *Calls) begin(name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.counts == nil {
		c.counts = map[string]int{}
	}
	c.counts[name]++
	return c.failure(c.before, name)
}

func (c *Calls) failure(rest map[string]int, name string) error {
	n := rest[name]
	if n == 0 {
		return nil
	}
	if n > 0 {
		rest[name]--
	}
	return errors.Join(ErrFake, c.err)
}
