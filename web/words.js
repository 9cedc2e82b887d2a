// @ts-check
/**
 * What `<session-guard>` says in other languages than English; loaded only where one is asked for.
 */

/** @type {Record<string, typeof import("./guard-dialog.js").ENGLISH>} */
export const WORDS = {
  de: {
    "warning-title": "Ihre Sitzung endet gleich",
    "warning-idle": "Seit einiger Zeit gab es keine Aktivität. Möchten Sie angemeldet bleiben?",
    "warning-observe":
      "Die Sitzung bleibt nur bestehen, wenn Sie die Anwendung nutzen. Bitte speichern Sie jetzt.",
    "warning-absolute":
      "Sie erreicht ihre Höchstdauer und kann nicht verlängert werden. Bitte speichern Sie jetzt.",
    stay: "Angemeldet bleiben",
    ok: "OK",
    logout: "Abmelden",
    offline: "Zurzeit besteht keine Verbindung. Es wird weiter versucht.",
    spoken: "Ihre Sitzung endet in {time}.",
    "ended-title": "Sie sind abgemeldet",
    "ended-idle": "Es gab zu lange keine Aktivität.",
    "ended-absolute": "Die Sitzung hat ihre Höchstdauer erreicht.",
    "ended-logout": "Sie haben sich hier oder in einem anderen Fenster abgemeldet.",
    "ended-revoked": "Die Sitzung wurde vom Betreiber beendet.",
    "ended-evicted": "Es waren zu viele Seiten oder Sitzungen offen, und diese war die älteste.",
    "ended-unknown": "Für diese Seite gibt es keine Sitzung mehr.",
    login: "Erneut anmelden",
    "signing-in": "Melden Sie sich im anderen Fenster an. Danach geht es hier weiter.",
  },
  es: {
    "warning-title": "Su sesión está a punto de terminar",
    "warning-idle": "No ha habido actividad durante un tiempo. ¿Desea mantener la sesión abierta?",
    "warning-observe": "La sesión solo continúa si usa la aplicación. Guarde su trabajo ahora.",
    "warning-absolute":
      "La sesión llega a su duración máxima y no se puede prolongar. Guarde su trabajo ahora.",
    stay: "Mantener la sesión",
    ok: "Aceptar",
    logout: "Cerrar sesión",
    offline: "Ahora mismo no hay conexión. Se sigue intentando.",
    spoken: "Su sesión termina en {time}.",
    "ended-title": "La sesión se ha cerrado",
    "ended-idle": "No hubo actividad durante demasiado tiempo.",
    "ended-absolute": "La sesión ha llegado a su duración máxima.",
    "ended-logout": "Ha cerrado la sesión aquí o en otra ventana.",
    "ended-revoked": "El sitio ha cerrado la sesión.",
    "ended-evicted": "Había demasiadas páginas o sesiones abiertas y esta era la más antigua.",
    "ended-unknown": "Ya no hay ninguna sesión para esta página.",
    login: "Volver a iniciar sesión",
    "signing-in": "Inicie sesión en la otra ventana. Después podrá continuar aquí.",
  },
  fr: {
    "warning-title": "Votre session est sur le point d’expirer",
    "warning-idle": "Aucune activité depuis un moment. Voulez-vous rester connecté ?",
    "warning-observe":
      "La session ne continue que si vous utilisez l’application. Enregistrez votre travail maintenant.",
    "warning-absolute":
      "La session arrive à sa durée maximale, sans prolongation possible. Enregistrez votre travail.",
    stay: "Rester connecté",
    ok: "OK",
    logout: "Se déconnecter",
    offline: "Pas de connexion pour le moment. Nouvel essai en cours.",
    spoken: "Votre session expire dans {time}.",
    "ended-title": "Vous êtes déconnecté",
    "ended-idle": "L’inactivité a duré trop longtemps.",
    "ended-absolute": "La session a atteint sa durée maximale.",
    "ended-logout": "Vous vous êtes déconnecté ici ou dans une autre fenêtre.",
    "ended-revoked": "Le site a mis fin à la session.",
    "ended-evicted": "Trop de pages ou de sessions étaient ouvertes, et celle-ci était la plus ancienne.",
    "ended-unknown": "Il n’y a plus de session pour cette page.",
    login: "Se reconnecter",
    "signing-in": "Connectez-vous dans l’autre fenêtre. Vous pourrez ensuite continuer ici.",
  },
  pt: {
    "warning-title": "Sua sessão está prestes a terminar",
    "warning-idle": "Não houve atividade nos últimos tempos. Deseja continuar conectado?",
    "warning-observe": "A sessão só continua se você usar a aplicação. Salve seu trabalho agora.",
    "warning-absolute":
      "A sessão chega à duração máxima e não pode ser prolongada. Salve seu trabalho agora.",
    stay: "Continuar conectado",
    ok: "OK",
    logout: "Sair",
    offline: "Sem conexão no momento. Tentando novamente.",
    spoken: "Sua sessão termina em {time}.",
    "ended-title": "Você foi desconectado",
    "ended-idle": "Não houve atividade por muito tempo.",
    "ended-absolute": "A sessão chegou à duração máxima.",
    "ended-logout": "Você saiu aqui ou em outra janela.",
    "ended-revoked": "O site encerrou a sessão.",
    "ended-evicted": "Havia páginas ou sessões demais abertas, e esta era a mais antiga.",
    "ended-unknown": "Não há mais sessão para esta página.",
    login: "Entrar novamente",
    "signing-in": "Entre na outra janela. Depois, você continua aqui.",
  },
};
