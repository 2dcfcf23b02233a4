package manifests

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/regkeeper/regkeeper/config"
)

// values are what the Helm chart in charts/regkeeper is given. A chart cannot
// tell from a configuration which rights and ports it takes: they are worked
// out here, and the chart's templates only write them down.
type values struct {
	// Namespace is the one that the rights are for: no other may be installed to.
	Namespace        string                 `json:"namespace"`
	Image            string                 `json:"image"`
	Mode             Mode                   `json:"mode"`
	Replicas         int32                  `json:"replicas"`
	Schedule         string                 `json:"schedule"`
	EnvSecret        string                 `json:"envSecret"`
	KubeconfigSecret string                 `json:"kubeconfigSecret"`
	NetworkPolicy    valuesNetwork          `json:"networkPolicy"`
	RBAC             map[string]valuesRules `json:"rbac"`
	Config           string                 `json:"config"`
}

type valuesNetwork struct {
	Enabled bool `json:"enabled"`
	// EgressPorts are of TCP.
	EgressPorts []int32 `json:"egressPorts"`
}

type valuesRules []rbacv1.PolicyRule

// clusterKey is the key of rbac for what is not in one namespace: no
// namespace's name has an underscore.
const clusterKey = "_cluster"

// HelmValues are the values with which the chart makes the objects of
// [Kubernetes], the Namespace excepted, which is Helm's own to make. The notes
// and the error are those of Kubernetes.
func HelmValues(c config.Config, text []byte, o Options) (values []byte, notes []string, err error) {
	o = o.defaults()
	if err := o.ready(c, text); err != nil {
		return nil, nil, err
	}
	rights := Rights(c, o)
	v := o.values(c, text)
	for namespace, rules := range Rules(rights) {
		if namespace == "" {
			namespace = clusterKey
		}
		v.RBAC[namespace] = rules
	}
	values, err = yaml.Marshal(v)
	return values, append(o.notes(c, text), noteRights(rights)...), err
}

func (o Options) values(c config.Config, text []byte) values {
	return values{
		EnvSecret: envSecret,
		Namespace: o.Namespace, Image: o.Image, Mode: o.Mode, Replicas: o.Replicas, Schedule: o.Schedule, KubeconfigSecret: o.KubeconfigSecret,
		NetworkPolicy: valuesNetwork{Enabled: !o.OpenNetwork, EgressPorts: o.egress(c)}, RBAC: map[string]valuesRules{}, Config: string(text),
	}
}
