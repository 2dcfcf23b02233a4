package kubelet

import "fmt"

// TokenRights are manifests that let kubelets ask for tokens of ServiceAccounts
// for an audience: the NodeRestriction admission of Kubernetes 1.33 and later
// refuses those that no right names (feature ServiceAccountNodeAudienceRestriction).
func TokenRights(audience string) string {
	return fmt.Sprintf(`apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: regkeeper-tokens}
rules:
  - {apiGroups: [""], resources: [%q], verbs: [request-serviceaccounts-token-audience]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: regkeeper-tokens}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: regkeeper-tokens}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:nodes"}]
`, audience)
}
