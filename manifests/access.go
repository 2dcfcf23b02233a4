package manifests

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/regkeeper/regkeeper/config"
	"github.com/regkeeper/regkeeper/internal/secretref"
	"github.com/regkeeper/regkeeper/target/secrets"
	"github.com/regkeeper/regkeeper/workload/cluster"
)

// Right is one thing that regkeeper asks of a cluster's API.
type Right struct {
	// Namespace is where; empty for the whole cluster.
	Namespace       string
	Group, Resource string
	Verbs           []string
	// Names are the only objects that it is for; none means any.
	Names []string
	// For is the part of the configuration that takes it, and Why what is done
	// with it.
	For, Why string
}

// The groups of the API.
var (
	core         = corev1.GroupName
	apps         = appsv1.GroupName
	coordination = coordinationv1.GroupName
)

// Rights are all that a configuration takes in one cluster: the one that
// regkeeper runs in, or that of [Options.Context].
//
// Each follows from a request that the code sends, as the apiserver authorises
// it. To list and watch one object by the field metadata.name counts as naming
// it (k8s.io/apiserver, pkg/endpoints/request/requestinfo.go), so that
// resourceNames hold there. A server-side apply is a patch, and takes create,
// with the name, where it makes the object (pkg/endpoints/handlers/patch.go).
// A plain create has no name, and cannot be held to one. Looking takes list; only
// who stays takes watch, so that a CronJob has no such right.
func Rights(c config.Config, o Options) []Right {
	o = o.defaults()
	r := rights{look: []string{"list", "watch"}}
	if o.Mode == CronJob {
		r.look = []string{"list"}
	}
	if o.Context == "" {
		r.own(c, o)
	}
	for _, t := range c.Targets {
		if !slices.ContainsFunc(t.Clusters, func(which config.Cluster) bool { return o.means(which) }) {
			continue
		}
		if t.Pods != nil {
			r.pods(*t.Pods)
		}
		if t.Secrets != nil {
			r.secrets(*t.Secrets)
		}
	}
	for _, which := range asked(c) {
		if o.means(which) {
			r.uses()
			break
		}
	}
	return r.list
}

// asked are the clusters that the daemon asks what is deployed.
func asked(c config.Config) []config.Cluster {
	var clusters []config.Cluster
	for _, images := range c.Images {
		if images.Prune.Every > 0 || images.Prune.Cron != nil {
			clusters = append(clusters, images.Clusters...)
		}
	}
	for _, mirror := range c.Mirrors {
		clusters = append(clusters, mirror.Clusters...)
	}
	return clusters
}

// uses are the rights for finding out what is deployed. No cache is kept of it.
func (r *rights) uses() {
	for _, right := range cluster.Rights(nil, nil) {
		r.add(Right{right.Namespace, right.Group, right.Resource, right.Verbs, right.Names, "deployed: true", right.Why})
	}
}

// means says whether a target's cluster is the one of the options.
func (o Options) means(which config.Cluster) bool {
	if o.Context == "" {
		return which == config.Cluster{}
	}
	return which.Context == o.Context
}

// rights collects.
type rights struct {
	list []Right
	look []string
}

func (r *rights) add(right Right) { r.list = append(r.list, right) }

// looking is the verbs for looking, and others.
func (r *rights) looking(others ...string) []string { return slices.Concat(r.look, others) }

// own are the rights for the state, and for secrets that the configuration
// names.
func (r *rights) own(c config.Config, o Options) {
	if s := c.State; s != nil {
		namespace, name, what := cmp.Or(s.Namespace, o.Namespace), []string{s.Name}, "state.secret"
		r.add(Right{namespace, core, "namespaces", []string{"get"}, []string{namespace}, what, "its UID is the id by which regkeeper knows what it made"})
		r.add(Right{namespace, core, "secrets", []string{"create"}, nil, what, "make the state the first time; creating cannot be held to a name"})
		r.add(Right{namespace, core, "secrets", []string{"get", "update"}, name, what, "read the state, and replace it as it was read"})
		r.add(Right{namespace, coordination, "leases", []string{"create"}, nil, what, "make the Lease the first time"})
		r.add(Right{namespace, coordination, "leases", []string{"get", "update"}, name, what, "one at a time works: hold the Lease, and give it back"})
	}
	for _, ref := range c.Secrets() {
		if key := ref.Secret; key != (secretref.ClusterKey{}) {
			r.add(Right{key.Namespace, core, "secrets", r.looking(), []string{key.Name}, "password: {secret: …}", "read this one Secret, and see that it changed"})
		}
	}
}

func (r *rights) pods(p config.Pods) {
	const what = "pods"
	for _, namespace := range orAll(p.Namespaces) {
		r.add(Right{namespace, core, "pods", r.looking("get"), nil, what, "find the containers, and what became of one that an exec failed in; pods' names are not known before"})
		// Over WebSocket, an exec is the request GET. It is authorised as get, and
		// since Kubernetes 1.35 as create too (feature gate
		// AuthorizePodWebsocketUpgradeCreatePermission); over SPDY it is a POST, and
		// takes create alone. With create and without get, each exec is refused
		// once, which the cluster's audit shows, and then made over SPDY. Get gives
		// nothing that create does not.
		r.add(Right{namespace, core, "pods/exec", []string{"create", "get"}, nil, what, "read and write config.json; get is how an exec over WebSocket is authorised"})
		r.events(namespace, what)
	}
}

// events are for telling the owners of what is delivered to.
func (r *rights) events(namespace, what string) {
	r.add(Right{namespace, core, "events", []string{"create", "patch"}, nil, what, "tell in `kubectl describe` what was delivered or could not be; patch counts a repeated one up"})
}

func (r *rights) secrets(s config.Secrets) {
	const what = "secrets"
	where, name := s.Namespaces, []string{s.Name}
	if s.Selector != nil || slices.ContainsFunc(where, secrets.IsPattern) {
		// Which namespaces it will be, nobody knows before.
		where = orAll(nil)
		r.add(Right{"", core, "namespaces", r.looking(), nil, what, "find the namespaces that the patterns or the selector choose"})
	} else {
		r.add(Right{"", core, "namespaces", r.looking(), where, what, "see that a namespace comes, goes, or opts out"})
	}
	for _, namespace := range where {
		r.add(Right{namespace, core, "secrets", r.looking("create", "patch", "delete"), name, what, "apply the Secret; delete it where its namespace opts out"})
		for _, account := range s.ServiceAccounts {
			r.add(Right{namespace, core, "serviceaccounts", r.looking("patch"), orEach(account), "secrets.serviceAccounts", "add the Secret to imagePullSecrets"})
		}
		for _, w := range s.Restart {
			r.add(Right{namespace, apps, w.Kind + "s", r.looking("patch"), orEach(w.Name), "secrets.restart", "restart it after a rotation, and see when it has"})
		}
		if s.Evict {
			r.add(Right{namespace, core, "pods", r.looking(), nil, "secrets.evict", "find pods that wait for an image"})
			r.add(Right{namespace, core, "pods/eviction", []string{"create"}, nil, "secrets.evict", "evict them, as PodDisruptionBudgets allow"})
		}
		r.events(namespace, what)
	}
}

// orAll has the one name of the whole cluster where there is none.
func orAll(namespaces []string) []string {
	if len(namespaces) == 0 {
		return []string{""}
	}
	return namespaces
}

// orEach is a name; none for each.
func orEach(name string) []string {
	if name == "*" {
		return nil
	}
	return []string{name}
}

// Rules are rights as RBAC has them, by namespace: each thing once, and in a
// fixed order. The empty namespace is the whole cluster.
func Rules(rights []Right) map[string][]rbacv1.PolicyRule {
	type thing struct{ namespace, group, resource, name string }
	verbs := map[thing][]string{}
	for _, r := range rights {
		for _, name := range orAll(r.Names) { // the empty name is any
			at := thing{r.Namespace, r.Group, r.Resource, name}
			verbs[at] = union(verbs[at], r.Verbs)
		}
	}
	// What is allowed for any name need not be allowed for one.
	type rule struct{ namespace, group, resource, verbs string }
	names := map[rule][]string{}
	for at, list := range verbs {
		if at.name != "" {
			anyone := verbs[thing{at.namespace, at.group, at.resource, ""}]
			list = slices.DeleteFunc(slices.Clone(list), func(verb string) bool { return slices.Contains(anyone, verb) })
		}
		if len(list) > 0 {
			key := rule{at.namespace, at.group, at.resource, strings.Join(list, " ")}
			if at.name == "" {
				key.resource += " " // apart from the named
			}
			names[key] = union(names[key], []string{at.name})
		}
	}
	rules := map[string][]rbacv1.PolicyRule{}
	for _, key := range slices.SortedFunc(maps.Keys(names), func(a, b rule) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.resource, b.resource), cmp.Compare(a.verbs, b.verbs))
	}) {
		policy := rbacv1.PolicyRule{
			APIGroups: []string{key.group}, Resources: []string{strings.TrimSpace(key.resource)}, Verbs: strings.Fields(key.verbs),
		}
		if !strings.HasSuffix(key.resource, " ") {
			policy.ResourceNames = names[key]
		}
		rules[key.namespace] = append(rules[key.namespace], policy)
	}
	return rules
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// access is a Role and its binding in each namespace, and a ClusterRole where
// something takes rights in the whole cluster.
func (o Options) access(rules map[string][]rbacv1.PolicyRule) []runtime.Object {
	var objects []runtime.Object
	subjects := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: o.Namespace, Name: Name}}
	for _, namespace := range slices.Sorted(maps.Keys(rules)) {
		meta := o.meta(namespace, o.instance())
		if namespace == "" {
			objects = append(objects,
				&rbacv1.ClusterRole{ObjectMeta: meta, Rules: rules[namespace]},
				&rbacv1.ClusterRoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: meta.Name}})
			continue
		}
		objects = append(objects,
			&rbacv1.Role{ObjectMeta: meta, Rules: rules[namespace]},
			&rbacv1.RoleBinding{ObjectMeta: meta, Subjects: subjects, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: meta.Name}})
	}
	return objects
}
