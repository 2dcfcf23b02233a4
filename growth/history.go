package growth

import (
	"maps"
	"math"
	"slices"
	"time"
)

const (
	day  = 24 * time.Hour
	year = 365 * day
)

// History is how what is there came to be. Each manifest and blob is dated by the
// first image that has it: when its tag was pushed, or else when it was built.
//
// Images that were deleted are in no history: pruned images do not count. Where
// images are deleted regularly, what is left looks younger than the repository
// is, and its growth is that of what stays.
type History struct {
	Now time.Time `json:"now"`
	// Points are the days on which something came, oldest first.
	Points []Point `json:"points"`
	// Bytes are there now, the undated among them.
	Bytes int64 `json:"bytes"`
	// Undated bytes have no image with a date; nor have these images one.
	Undated       int64 `json:"undated"`
	Images        int   `json:"images"` // with a date
	UndatedImages int   `json:"undatedImages"`

	levels levels
	pushed []int64 // the dates of the images, sorted
}

// Point is what was there at the end of a day.
type Point struct {
	Day   time.Time `json:"day"`   // its begin, in UTC
	Bytes int64     `json:"bytes"` // without the undated
}

// level is what was there from a time on.
type level struct {
	at    int64 // in Unix seconds
	bytes int64 // without the undated
}

// levels come in the order of time.
type levels []level

// History tells how what was added grew until now. Dates of the coming day are
// now: clocks differ. Later ones are no dates.
func (u *Usage) History(now time.Time) History {
	h := History{Now: now.UTC()}
	first := make([]int64, len(u.contents))
	date := func(holder holder) int64 {
		switch at := holder.at; {
		case at > now.Add(day).Unix():
			return 0
		case at > now.Unix():
			return now.Unix()
		default:
			return at
		}
	}
	for _, r := range u.repositories {
		for _, i := range r.images {
			if at := date(i); at != 0 {
				h.pushed = append(h.pushed, at)
			} else {
				h.UndatedImages++
			}
		}
		for _, holders := range [][]holder{r.images, r.loose} {
			for _, holder := range holders {
				at := date(holder)
				if at == 0 {
					continue
				}
				for _, id := range holder.has {
					if first[id] == 0 || at < first[id] {
						first[id] = at
					}
				}
			}
		}
	}
	slices.Sort(h.pushed)
	h.Images = len(h.pushed)
	came := map[int64]int64{}
	for id, c := range u.contents {
		h.Bytes = plus(h.Bytes, c.size)
		if first[id] == 0 {
			h.Undated = plus(h.Undated, c.size)
		} else {
			came[first[id]] = plus(came[first[id]], c.size)
		}
	}
	var sum int64
	h.Points = []Point{}
	for _, at := range slices.Sorted(maps.Keys(came)) {
		sum = plus(sum, came[at])
		h.levels = append(h.levels, level{at: at, bytes: sum})
		point := Point{Day: time.Unix(at, 0).UTC().Truncate(day), Bytes: sum}
		if last := len(h.Points) - 1; last >= 0 && h.Points[last].Day.Equal(point.Day) {
			h.Points[last] = point
		} else {
			h.Points = append(h.Points, point)
		}
	}
	return h
}

// begin is when the first dated byte came; zero if none did.
func (h History) begin() time.Time {
	if len(h.levels) == 0 {
		return time.Time{}
	}
	return time.Unix(h.levels[0].at, 0).UTC()
}

// at is what was there at a time, without the undated.
func (l levels) at(t time.Time) int64 {
	i, found := slices.BinarySearchFunc(l, t.Unix(), func(l level, t int64) int {
		switch {
		case l.at < t:
			return -1
		case l.at > t:
			return 1
		}
		return 0
	})
	if found {
		i++
	}
	if i == 0 {
		return 0
	}
	return l[i-1].bytes
}

// mark is a size at a time, of which a pace is made.
type mark struct {
	days  float64
	bytes float64
}

// slopes are the paces between every two marks that are at least so many days
// apart: their quartiles and their median, in bytes a day. Without such marks they
// are zero.
//
// The median is Theil and Sen's estimate (Sen 1968, "Estimates of the regression
// coefficient based on Kendall's tau"): one day on which much was moved in at once
// does not make a pace, as it would if the growth were divided by the days. Marks
// a week apart or more hide the rhythm of a week.
func slopes(marks []mark, apart float64) (low, middle, high float64) {
	var all []float64
	for i, a := range marks {
		for _, b := range marks[i+1:] {
			if span := b.days - a.days; span >= apart {
				all = append(all, (b.bytes-a.bytes)/span)
			}
		}
	}
	if len(all) == 0 {
		return 0, 0, 0
	}
	slices.Sort(all)
	return quantile(all, 0.25), quantile(all, 0.5), quantile(all, 0.75)
}

// quantile of sorted numbers, between two by their distance.
func quantile(sorted []float64, q float64) float64 {
	at := q * float64(len(sorted)-1)
	below := int(at)
	above := min(below+1, len(sorted)-1)
	return sorted[below] + (sorted[above]-sorted[below])*(at-math.Floor(at))
}
