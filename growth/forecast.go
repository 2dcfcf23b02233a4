package growth

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// What a pace is made of, at least.
const (
	leastDays   = 14
	leastImages = 3
)

const (
	// someDays is the window of a pace where none is given.
	someDays = 90
	// mostMarks bounds the work of a pace: it grows with their square.
	mostMarks = 180
	// horizon is the last time that is forecast.
	horizon = 100 * year
)

// Question is what a forecast is asked.
type Question struct {
	// Days is the window of the pace, up to now; 0 is 90. A shorter history makes
	// it shorter.
	Days int
	// Capacity is what the disk holds, in bytes; 0 if that is not asked.
	Capacity int64
	// Others is what is on the disk besides, in bytes: it is taken not to grow.
	Others int64
}

// Range is a pace with its quartiles, in bytes a year.
type Range struct {
	Low    int64 `json:"low"`
	Middle int64 `json:"middle"`
	High   int64 `json:"high"`
}

// Full is when the disk is full. A time is zero if it is not within 100 years.
type Full struct {
	Early time.Time `json:"early,omitzero"` // at the high pace
	At    time.Time `json:"at,omitzero"`    // at the middle pace
	Late  time.Time `json:"late,omitzero"`  // at the low pace
}

// Forecast is how a history goes on at the pace that it has.
type Forecast struct {
	Now time.Time `json:"now"`
	// Days and Images are what the pace is of.
	Days   int `json:"days"`
	Images int `json:"images"`
	// TooLittle says why there is no pace; PerYear and Full are zero then.
	TooLittle string `json:"tooLittle,omitempty"`
	// PerYear is the median of the paces between every two marks of the window
	// that are a week apart or more, with the quartiles of these.
	PerYear Range `json:"perYear"`
	// Grown is what came in the window.
	Grown int64 `json:"grown"`
	// Bytes are there now, Undated among them. Undated ones are in no pace.
	Bytes    int64 `json:"bytes"`
	Undated  int64 `json:"undated"`
	Capacity int64 `json:"capacity,omitempty"`
	Others   int64 `json:"others,omitempty"`
	// Left is what the disk has room for; below zero nothing, and the disk is
	// smaller than what should be on it.
	Left int64 `json:"left,omitempty"`
	Full Full  `json:"full,omitzero"`
}

// Forecast tells how the history goes on.
func (h History) Forecast(q Question) Forecast {
	if q.Days <= 0 {
		q.Days = someDays
	}
	f := Forecast{Now: h.Now, Bytes: h.Bytes, Undated: h.Undated, Capacity: q.Capacity, Others: max(q.Others, 0)}
	if f.Capacity > 0 {
		f.Left = f.Capacity - plus(f.Bytes, f.Others)
	}
	start := h.Now.AddDate(0, 0, -q.Days)
	if begin := h.begin(); begin.After(start) {
		start = begin
	}
	span := 0.0 // in days
	if len(h.levels) > 0 {
		span = h.Now.Sub(start).Hours() / 24
		f.Grown = h.levels.at(h.Now) - h.levels.at(start)
	}
	f.Days = int(math.Round(span))
	i, _ := slices.BinarySearch(h.pushed, start.Unix())
	f.Images = len(h.pushed) - i
	switch {
	case len(h.levels) == 0:
		f.TooLittle = "nothing has a date"
		return f
	case f.Days < leastDays || h.Images < leastImages:
		f.TooLittle = fmt.Sprintf("%s, %s; it takes %d days and %d images", count(f.Days, "day"), count(h.Images, "image"), leastDays, leastImages)
		return f
	}
	var marks []mark
	steps := min(f.Days, mostMarks)
	for i := range steps + 1 {
		days := span * float64(i) / float64(steps)
		at := start.Add(time.Duration(days * float64(day)))
		if i == steps {
			at = h.Now
		}
		marks = append(marks, mark{days: days, bytes: float64(h.levels.at(at))})
	}
	low, middle, high := slopes(marks, 7)
	f.PerYear = Range{Low: perYear(low), Middle: perYear(middle), High: perYear(high)}
	if f.Capacity > 0 {
		f.Full = full(f.Now, f.Left, f.PerYear)
	}
	return f
}

// perYear is a pace of bytes a day.
func perYear(pace float64) int64 {
	pace *= 365
	switch {
	case !(pace > 0):
		return 0
	case pace >= math.MaxInt64:
		return math.MaxInt64
	}
	return int64(math.Round(pace))
}

func full(now time.Time, left int64, pace Range) Full {
	at := func(perYear int64) time.Time {
		years := float64(left) / float64(perYear)
		switch {
		case left <= 0:
			return now
		case perYear <= 0 || years > horizon.Hours()/year.Hours():
			return time.Time{}
		}
		return now.Add(time.Duration(years * float64(year))).Truncate(time.Second)
	}
	return Full{Early: at(pace.High), At: at(pace.Middle), Late: at(pace.Low)}
}

// String is the forecast as a sentence without a full stop: "about 10 GB a year at
// this pace (90 days, 132 images); 80 GB are full about May 2033 (2031 to 2037)".
func (f Forecast) String() string {
	var parts []string
	window := fmt.Sprintf("(%s, %s)", count(f.Days, "day"), count(f.Images, "image"))
	switch {
	case f.TooLittle != "":
		parts = append(parts, "too little history for a pace: "+f.TooLittle)
	case f.PerYear.Middle == 0 && f.Grown == 0:
		parts = append(parts, "no growth at this pace "+window)
	case f.PerYear.Middle == 0:
		parts = append(parts, fmt.Sprintf("no steady growth: %s in all %s", Bytes(f.Grown), window))
	default:
		parts = append(parts, fmt.Sprintf("about %s a year at this pace %s", Bytes(f.PerYear.Middle), window))
	}
	if f.Capacity > 0 {
		parts = append(parts, filled(f.Now, f.Capacity, f.Left, f.Full, f.TooLittle == "" && (f.PerYear.High > 0 || f.Grown == 0)))
	}
	if f.Undated > 0 {
		parts = append(parts, fmt.Sprintf("%s have no date and are in no pace", Bytes(f.Undated)))
	}
	return strings.Join(parts, "; ")
}

// filled is when a disk is full, as people say it.
func filled(now time.Time, capacity, left int64, full Full, paced bool) string {
	disk := Bytes(capacity)
	switch {
	case left <= 0:
		return disk + " are full now"
	case !paced:
		return fmt.Sprintf("%s of %s are left", Bytes(left), disk)
	case full.Early.IsZero():
		return disk + " are not full within 100 years at this pace"
	case full.At.IsZero():
		return fmt.Sprintf("%s are full %s at the earliest", disk, month(now, full.Early))
	}
	text := fmt.Sprintf("%s are full about %s", disk, month(now, full.At))
	switch {
	case full.Late.IsZero():
		return text + fmt.Sprintf(" (%s or later)", month(now, full.Early))
	case full.Early.Equal(full.Late):
		return text
	case full.Late.Sub(full.Early) > 2*year:
		return text + fmt.Sprintf(" (%d to %d)", full.Early.Year(), full.Late.Year())
	}
	early, late := month(now, full.Early), month(now, full.Late)
	if early == late {
		return text
	}
	return text + fmt.Sprintf(" (%s to %s)", early, late)
}

// month is a date as near as it can be told: the day only if it is soon.
func month(now, at time.Time) string {
	if at.Sub(now) < 60*day {
		return at.Format("2 January 2006")
	}
	return at.Format("January 2006")
}

// count is a number of things.
func count(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
