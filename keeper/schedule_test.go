package keeper_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/robfig/cron/v3"
	"pgregory.net/rapid"

	"github.com/regkeeper/regkeeper/credential"
	"github.com/regkeeper/regkeeper/keeper"
)

func parseCron(t testing.TB, text string) cron.Schedule {
	t.Helper()
	schedule, err := cron.ParseStandard(text)
	if err != nil {
		t.Fatal(err)
	}
	return schedule
}

func TestScheduleNext(t *testing.T) {
	day := 24 * time.Hour
	nights := parseCron(t, "CRON_TZ=UTC 0 3 * * *")
	for _, test := range []struct {
		name     string
		schedule keeper.Schedule
		expires  time.Time
		// from and to are what the time must lie between, both included.
		from, to time.Time
	}{
		{name: "none"},
		{name: "every", schedule: keeper.Schedule{Every: 30 * day}, from: noon.Add(30 * day), to: noon.Add(30 * day)},
		{name: "every with jitter", schedule: keeper.Schedule{Every: 30 * day, Jitter: 3 * day}, from: noon.Add(27 * day), to: noon.Add(30 * day)},
		{name: "jitter is at most half", schedule: keeper.Schedule{Every: day, Jitter: 100 * day}, from: noon.Add(day / 2), to: noon.Add(day)},
		{name: "cron", schedule: keeper.Schedule{Cron: nights}, from: noon.Add(15 * time.Hour), to: noon.Add(15 * time.Hour)},
		{name: "cron with jitter", schedule: keeper.Schedule{Cron: nights, Jitter: time.Hour}, from: noon.Add(15 * time.Hour), to: noon.Add(16 * time.Hour)},
		{name: "no such time", schedule: keeper.Schedule{Cron: parseCron(t, "CRON_TZ=UTC 0 0 30 2 *"), Jitter: time.Hour}},
		{name: "no such time, and every", schedule: keeper.Schedule{Cron: parseCron(t, "CRON_TZ=UTC 0 0 30 2 *"), Every: day}, from: noon.Add(day), to: noon.Add(day)},
		{name: "expiry", expires: noon.Add(30 * day), from: noon.Add(18 * day), to: noon.Add(20 * day)},
		{name: "expiry is earlier", schedule: keeper.Schedule{Every: 30 * day}, expires: noon.Add(3 * day), from: noon.Add(43 * time.Hour), to: noon.Add(2 * day)},
		{name: "every is earlier", schedule: keeper.Schedule{Every: day}, expires: noon.Add(3 * day), from: noon.Add(day), to: noon.Add(day)},
		{name: "cron is earlier", schedule: keeper.Schedule{Every: day, Cron: nights}, from: noon.Add(15 * time.Hour), to: noon.Add(15 * time.Hour)},
	} {
		for i := range 50 {
			login := credential.Credential{ID: fmt.Sprintf("id-%d", i), Issued: noon, Expires: test.expires}
			got := test.schedule.Next(login)
			if got.Before(test.from) || got.After(test.to) {
				t.Errorf("%s: next is %s, want between %s and %s", test.name, got, test.from, test.to)
			}
			if again := test.schedule.Next(login); !again.Equal(got) {
				t.Errorf("%s: next is %s, and then %s", test.name, got, again)
			}
		}
	}
}

// TestCronZone sees that the time does not depend on how a source writes the
// moment of issue.
func TestCronZone(t *testing.T) {
	for _, text := range []string{"0 3 * * *", "CRON_TZ=Asia/Tokyo 0 3 * * *"} {
		schedule := keeper.Schedule{Cron: parseCron(t, text)}
		want := schedule.Next(credential.Credential{ID: "a", Issued: noon})
		for _, zone := range []*time.Location{time.Local, time.FixedZone("far", 11*60*60)} {
			if got := schedule.Next(credential.Credential{ID: "a", Issued: noon.In(zone)}); !got.Equal(want) {
				t.Errorf("%s: issued in %s it is due at %s, in UTC at %s", text, zone, got, want)
			}
		}
	}
}

// TestJitterSpreads sees that logins made at one moment are not all due at one.
func TestJitterSpreads(t *testing.T) {
	schedule := keeper.Schedule{Every: 100 * time.Hour, Jitter: 10 * time.Hour}
	seen := map[int]int{}
	const logins = 1000
	for i := range logins {
		next := schedule.Next(credential.Credential{ID: fmt.Sprintf("id-%d", i), Issued: noon})
		seen[int(next.Sub(noon)/time.Hour)]++
	}
	for hour, n := range seen {
		if n > logins/5 {
			t.Errorf("%d of %d logins are due in hour %d", n, logins, hour)
		}
	}
}

// TestNextIsAhead sees that a login is never due at the moment it is made: it
// would be replaced without end.
func TestNextIsAhead(t *testing.T) {
	crons := []string{"", "CRON_TZ=UTC 0 3 * * *", "*/5 * * * *", "CRON_TZ=UTC 0 0 30 2 *", "@every 1h"}
	rapid.Check(t, func(t *rapid.T) {
		length := rapid.Int64Range(0, int64(10000*time.Hour))
		schedule := keeper.Schedule{
			Every:  time.Duration(length.Draw(t, "every")),
			Jitter: time.Duration(length.Draw(t, "jitter")),
		}
		if text := rapid.SampledFrom(crons).Draw(t, "cron"); text != "" {
			schedule.Cron, _ = cron.ParseStandard(text)
		}
		login := credential.Credential{ID: rapid.String().Draw(t, "id"), Issued: noon}
		if rapid.Bool().Draw(t, "expires") {
			login.Expires = noon.Add(time.Second + time.Duration(length.Draw(t, "life")))
		}
		next := schedule.Next(login)
		if !next.IsZero() && !next.After(noon) {
			t.Fatalf("issued at %s, due at %s", noon, next)
		}
		if !login.Expires.IsZero() && !next.Before(login.Expires) {
			t.Fatalf("expires at %s, due at %s", login.Expires, next)
		}
	})
}
