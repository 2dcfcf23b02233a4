{{- define "regkeeper.instance" -}}
{{- if eq .Release.Namespace "regkeeper" -}}regkeeper{{- else -}}regkeeper-{{ .Release.Namespace }}{{- end -}}
{{- end }}

{{- define "regkeeper.labels" -}}
app.kubernetes.io/name: regkeeper
app.kubernetes.io/instance: {{ include "regkeeper.instance" . }}
{{- end }}

{{- define "regkeeper.check" -}}
{{- if or (not .Values.config) (not .Values.image) (not .Values.rbac) -}}
{{- fail "values are missing: make them with regkeeper install kubernetes --helm-values > values.yaml" -}}
{{- end -}}
{{- if ne .Values.namespace .Release.Namespace -}}
{{- fail (printf "the values are for namespace %q, and the release is in %q: make them with regkeeper install kubernetes --helm-values --namespace %s" .Values.namespace .Release.Namespace .Release.Namespace) -}}
{{- end -}}
{{- if not (has .Values.mode (list "deployment" "cronjob")) -}}
{{- fail "mode is deployment or cronjob" -}}
{{- end -}}
{{- end }}

{{- define "regkeeper.pod" -}}
metadata:
  annotations:
    regkeeper.dev/config: {{ sha256sum .Values.config }}
  labels:
    {{- include "regkeeper.labels" . | nindent 4 }}
spec:
  serviceAccountName: regkeeper
  automountServiceAccountToken: true
  enableServiceLinks: false
  terminationGracePeriodSeconds: 30
  {{- if eq .Values.mode "cronjob" }}
  restartPolicy: Never
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    seccompProfile:
      type: RuntimeDefault
  {{- if eq .Values.mode "deployment" }}
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: kubernetes.io/hostname
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "regkeeper.labels" . | nindent 10 }}
  {{- end }}
  containers:
    - name: regkeeper
      image: {{ .Values.image | quote }}
      args:
        - {{ if eq .Values.mode "cronjob" }}sync{{ else }}up{{ end }}
        - --config=/etc/regkeeper/regkeeper.yaml
        - --data=/var/lib/regkeeper
        {{- if eq .Values.mode "deployment" }}
        - --health=:9470
      ports:
        - name: health
          containerPort: 9470
          protocol: TCP
      {{- /* Both ask whether passes are made: /readyz is 503 while any place is not in order. */}}
      livenessProbe:
        httpGet:
          path: /healthz
          port: health
        initialDelaySeconds: 10
        periodSeconds: 20
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet:
          path: /healthz
          port: health
        periodSeconds: 10
        timeoutSeconds: 5
        {{- end }}
      {{- with .Values.envSecret }}
      envFrom:
        - secretRef:
            name: {{ . }}
            optional: true
      {{- end }}
      {{- if .Values.kubeconfigSecret }}
      env:
        - name: KUBECONFIG
          value: /var/run/regkeeper/config
      {{- end }}
      resources:
        requests:
          cpu: 10m
          memory: 64Mi
        limits:
          memory: 256Mi
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      volumeMounts:
        - name: config
          mountPath: /etc/regkeeper
          readOnly: true
        - name: data
          mountPath: /var/lib/regkeeper
        {{- if .Values.kubeconfigSecret }}
        - name: kubeconfig
          mountPath: /var/run/regkeeper
          readOnly: true
        {{- end }}
  volumes:
    - name: config
      configMap:
        name: regkeeper
    - name: data
      emptyDir:
        sizeLimit: 256Mi
    {{- with .Values.kubeconfigSecret }}
    - name: kubeconfig
      secret:
        secretName: {{ . }}
    {{- end }}
{{- end }}
