package plan_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/regkeeper/regkeeper/image"
	"github.com/regkeeper/regkeeper/plan"
)

// BenchmarkDecide plans for a repository of multi-platform images, each with two
// attestations and a signature: eight manifests and two tags for each image.
func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{1000, 10_000} {
		s := &shop{Inventory: image.NewInventory(here), facts: plan.Facts{Now: noon}}
		for i := range n {
			s.cosign(s.buildx(sha(i), time.Duration(i+1)*time.Minute, sha(i)), time.Duration(i+1)*time.Minute)
		}
		for i := range 200 {
			s.use(fmt.Sprintf("Deployment team/api-%d of context prod", i), ":"+sha(i*n/200))
		}
		s.keep(plan.Rule{Last: 30}, plan.Rule{Deployed: true})
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if p := plan.Decide(s.policy, s.Inventory, s.facts); p.Gone() < n/2 {
					b.Fatalf("%d go", p.Gone())
				}
			}
		})
	}
}
